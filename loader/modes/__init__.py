"""What a job can do besides loading: one package a mode."""
