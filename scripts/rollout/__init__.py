"""A policy's new version takes over from the old one while robots go on asking.

`facts` is what is known at a moment, `judge` says whether the new version breaks a bound, and
`plan` says what to do next, as a list of `actions`. None of them knows a socket, a process or a
clock. `tally` keeps counts over a broker's restarts, `brokers` talks to the brokers, `shadow` asks
the new version what the old one was asked, `launch` starts workers, `report` shows and saves the
result, and `command` is the loop around all of them.
"""
