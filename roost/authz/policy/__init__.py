"""Who may do what: Cedar policies, those that ship and an operator's own, behind one cached question."""
