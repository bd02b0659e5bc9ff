"""Codebooks as data: facs.yaml holds the AU regions, every other YAML one published codebook."""
