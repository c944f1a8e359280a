"""How good are the samples? ``npgan evaluate`` and ``npgan train --eval-every``.

``parzen`` is the published protocol, ``metrics`` what a classifier's features say, ``sources`` the rows that give both
meaning, ``figures`` puts them together, ``command`` is the command, ``callback`` the evaluation while a run trains.
"""
