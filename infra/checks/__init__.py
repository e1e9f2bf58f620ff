"""What `python infra/validate.py` checks: each file of infra/ by its tool or schema, and that they agree."""
