"""Judges dotted names, of configs and of pickles alike: `needed` lists what models use, `dangerous` what is refused."""
