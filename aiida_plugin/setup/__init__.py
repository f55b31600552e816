"""Making and checking all that AiiDA needs: profile, computer, codes, models, pseudopotentials."""
