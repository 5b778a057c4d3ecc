"""Requests to one or several servers: retries, health checks, load balancing."""
