"""The broker. A module imports, and so calls, only modules of lower layers.

    layer            modules
    process          __main__
    sockets          shell
    followers        tap
    core             access, core, doors, nearby
    peers            registry, robots, rollouts
    decisions        leases
    views            dispatch, names, reasons, status
    state            inflight, workers
    records          accounts, outbox, requests, security, telemetry, versions
    quotas           fairness
    lanes            shares
    vocabulary       agenda, config, events, states, teams

Below all of them are `client`, for what goes over the wire, and `conf`, for settings and logs.

A request is admitted by `robots`, waits in `inflight`, and is leased to a worker by `leases`. The
worker's result is received by `registry` and passed down: `leases` frees the slot, `inflight`
closes the request, and the answer is put into `outbox`.
"""
