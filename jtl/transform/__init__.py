"""Functions from a `Model` to a `Model`: interception, rematerialisation, fused attention."""
