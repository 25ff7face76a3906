"""The process that holds one policy on one device. A room imports only rooms of lower layers.

    layer            modules
    process          __main__
    shell            service
    conversations    conversations
    intake           intake, sessions
    threads          connection, inference, session
    answers          answers
    served           checkpoint_tools, policies
    device           runtime
    robots           robots
    files            checkpoints, models
    settings         config, policy
    rules            guard_config
    vocabulary       addresses, credits, device_name, events, images, seeds, stages
    failures         errors

A room is a module or a folder. Below all of them are `client`, for what goes over the wire, and
`conf`, for settings and logs.

`conversations` receives a request, `intake` decodes it, and `inference` runs it: `policies` calls
`robots` for the model's inputs, `runtime` for the actions, and `robots` for the way back. `service`
says which thread does what.
"""
