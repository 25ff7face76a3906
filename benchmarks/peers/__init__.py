"""The ways a robot can ask, one module each.

Each module has `connect(host, port, timeout_s)`, which waits for the server and returns a function
`prepare(observation)`. That returns a function which makes one round trip and returns the answer, a
dict with `actions`. `timeout_s` bounds a round trip if the peer has timeouts: only `ours` has. All
but `ours` also have `serve(host, port)`, which answers until it is killed, or, with a broker
between, `broker` and `worker` of (host, port, backend). If a peer's answers say how long their
stages took, `split(answer, total_ms)` gives the milliseconds by stage, whose sum is `total_ms`. If
`SURVIVES_ERRORS` is true, the client can still be used after an error. The modules run in processes
of their own, some in openpi's environment, so they import only numpy and what they measure.
"""
