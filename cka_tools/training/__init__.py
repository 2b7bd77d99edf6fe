"""The CLM detour and its baseline: texts → packed tokens → objective → masks → loss → weights."""
