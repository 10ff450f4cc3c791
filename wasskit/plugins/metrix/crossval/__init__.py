"""Cross-validated comparison of metric losses with equal tuning (`wasskit metrix crossval`)."""
