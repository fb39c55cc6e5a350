"""Tells a Flask app with an artifact cache which of its files have changed."""
