"""The robot that works out of the box: how `model=tiny` learns two tasks of the ALOHA simulator."""
