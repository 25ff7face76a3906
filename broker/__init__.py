"""The broker. Modules import, and so call, downwards only; a layer's own do not know each other.

    layer            modules
    process          __main__
    sockets          shell
    core             core, doors
    peers            registry, robots
    decisions        leases
    views            dispatch, names, status
    state            inflight, workers
    records          accounts, outbox, requests, security, telemetry
    vocabulary       agenda, config, events, states

Below them lie `client`, for what goes over the wire, and `conf`, for settings and logs. A request
comes in through `robots`, waits in `inflight`, is given away by `leases`, comes back through
`registry` and `leases`, and leaves from `inflight` by way of `outbox`.
"""
