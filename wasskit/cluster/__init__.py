"""Commands as jobs of a cluster, through submitit: submitted, requeued and resumed. Free of torch."""
