"""What needs the graph of a run alone: its nodes, joins, gates, signs, supports, batch axes and separator layers."""
