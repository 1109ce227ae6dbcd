"""Bit errors chosen by an attacker."""
