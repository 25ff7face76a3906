"""A fleet on Ray: which workers run where, restarted, scaled and drained.

What decides is pure, and knows neither Ray nor a clock:

    scaling     how many workers a policy should have
    restarts    when a process that ended is started again, and when it is given up
    roster      every member's state: events and time in, commands out

What carries it out:

    seat        a Ray actor that holds one process, and never its data
    crew        the seats of a fleet, as the roster's commands ask for them
    demand      what the brokers say of each policy
    director    the Ray actor around roster, crew and demand
    cluster     finding Ray, or starting it on this machine
"""
