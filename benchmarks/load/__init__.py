"""Many paced robots at few workers: how many answers come in time to be of use."""
