"""The reconcile loop: load, observe, record, decide, act; and what stands around it."""
