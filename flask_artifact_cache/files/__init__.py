"""What is on disk; knows neither Flask nor SQLAlchemy."""
