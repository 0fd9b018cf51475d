"""The floor that speaks OpenMMLab, and the commands of the package.

engine trains, tests, saves and resumes; data_checks looks at data before a training;
doctor reports on an environment; cli has the commands, commands what they need besides.
"""
