"""What `score` is made of: the work on one shard, and the protocol of each figure."""
