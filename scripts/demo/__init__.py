"""`python -m scripts.demo`: a simulated ALOHA robot, driven through the broker by two workers."""
