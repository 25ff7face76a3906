"""Pictures of the gateway's page: `python -m scripts.page_shots`."""
