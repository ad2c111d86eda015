"""jtl: transfer learning for JAX, four families on one objective type and one train step."""
