"""The only package that knows how to reach Postgres: connections, the schema, and the SQL of all packages.

The two drivers have their places: psycopg's pool serves LangGraph's saver and reads (`PsycopgPool`); dedicated asyncpg
connections carry what must live as long as a session, the locks (`connect_direct`), and what every run asks, its
checkpoints above all (`DirectConnection`). The database's clock decides everywhere; the local clock only makes us stop sooner.
"""
