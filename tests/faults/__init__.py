"""Kills, full disks and spoiled inputs, counted: `make faults`"""
