"""The ways a robot can ask, one module each.

Each module has `connect(port)`, which waits for the server and returns a function that prepares a
question; the question, called, makes one round trip and returns the answer's actions. All but
`ours` also have `serve(port)`, which answers until it is killed. They run in processes of their
own, some in openpi's environment, and so import only numpy and what they measure.
"""
