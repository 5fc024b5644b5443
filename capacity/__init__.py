"""What the service costs and where it stops growing, computed from published prices and limits and from what was
measured; `python -m capacity` writes the tables of docs/operations.md."""
