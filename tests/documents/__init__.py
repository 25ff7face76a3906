"""Parts of the documents that are written from the code and from saved results."""
