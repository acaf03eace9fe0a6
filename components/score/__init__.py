"""The `score` step: work on one shard, figures, and the protocol of each figure."""
