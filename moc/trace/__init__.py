"""What was routed, for people: counts, records, heatmaps."""
