"""The ways a robot can ask, one module each.

Each module has `connect(host, port, timeout_s)`, which waits for the server and returns a function
that prepares a call; the call, made, makes one round trip and returns the answer, a dict
with `actions`. `timeout_s` bounds a round trip where the peer knows of such a thing: only `ours`
does. All but `ours` also have `serve(host, port)`, which answers until it is killed. Those whose
answers tell how long their stages took have `split(answer, total_ms)`, which gives the milliseconds
by stage, with the same sum. `GOES_ON`, where it is true, says that the client can be used further
after an error. They run in processes of their own, some in openpi's environment, and
so import only numpy and what they measure.
"""
