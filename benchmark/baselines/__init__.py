"""What people run today instead of RewardServe, one file each, written the way they run it.

They know nothing of RewardServe: each file is one that its user could have written.
"""
