"""Running a model on a device: threads, dtypes, loading, rearranged weights, graphs and batches."""
