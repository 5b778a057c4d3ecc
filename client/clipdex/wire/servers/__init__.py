"""One address of several servers: attempts, health, and the choice of the least busy."""
