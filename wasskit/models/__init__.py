"""Networks: backbones, heads, input-convex networks."""
