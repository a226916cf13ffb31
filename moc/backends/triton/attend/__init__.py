"""Stage 3: attention over the lists; every part leaves partial outputs with their log-sum-exp."""
