"""How alike two pictures look: signatures, and their comparison. Pure functions of arrays."""
