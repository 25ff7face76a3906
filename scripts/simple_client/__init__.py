"""`python -m scripts.simple_client`: random observations of each robot, without a robot."""
