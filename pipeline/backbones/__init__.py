"""Networks: each a Config and a build."""
