"""Integrations with web frameworks. Each needs an extra; nothing else in aiodurable imports it."""
