-- Who gave a lead its name. What providers tell of its later calls and texts does not change that name.
alter table leads add column named_by text; -- user id; null: it is called as providers tell
