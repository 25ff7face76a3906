"""The gateway: other systems' robots on one side, the broker on the other, and a page for people.

It is a process of its own and one of the broker's clients. Nothing of the broker's imports it. A
module imports only modules of lower layers:

    layer            modules
    process          __main__
    listeners        dialects, http
    servers          pages, peers, websocket
    shared           gateway
    robots           sessions
    reports          async_client, broker_metrics, guard, tap_watch, tracing
    brokers          feeds, loop_connections
    questions        loop_inquiry
    vocabulary       access, config, feed, loop_connection, mapping, metrics, pickles, view
    transport        http_requests, http_server
    values           lerobot_messages, pickled_values, sglang_values
    bytes            arrays
"""
