"""Durable LangGraph workflows on Postgres alone: not lost, not run twice."""
