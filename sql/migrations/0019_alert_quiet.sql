-- An alert that fires ends when its bound was not passed for a while. Since when that is so, and since when there is no
-- data to tell, outlives the process that saw it.
alter table alerts
add column quiet_since timestamptz,
add column blank_since timestamptz;
