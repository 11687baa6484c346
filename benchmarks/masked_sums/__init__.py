"""Who adds up under masks, for `benchmarks/secure_aggregation.py`: we, Flower, and nothing but keystreams."""
