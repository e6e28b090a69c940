-- What a new embedded server is told before it is a data directory of Roost's.

-- name: create_database
CREATE DATABASE roost;
