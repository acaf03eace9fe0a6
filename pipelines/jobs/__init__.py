"""Where a run can be sent: profiles of clusters, and jobs on them."""
