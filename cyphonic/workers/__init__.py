"""Workers: they own nothing; each takes batches from frontends, works on Redis, and reports back."""
