"""Durable jobs: what is asked, by whom, how far it is; claimed by drivers under a lease and ended exactly once."""
