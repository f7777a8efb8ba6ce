BEGIN TRANSACTION;
CREATE TABLE appointment_priors (
	appointment_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	study_instance_uid TEXT NOT NULL, 
	taken BOOLEAN NOT NULL, 
	prior BLOB NOT NULL, 
	PRIMARY KEY (appointment_id, number), 
	FOREIGN KEY(appointment_id) REFERENCES appointments (id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
CREATE TABLE appointment_transfers (
	appointment_id INTEGER NOT NULL, 
	transfer_id INTEGER NOT NULL, 
	owned BOOLEAN NOT NULL, 
	PRIMARY KEY (appointment_id, transfer_id), 
	FOREIGN KEY(appointment_id) REFERENCES appointments (id) ON DELETE CASCADE, 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
CREATE TABLE appointments (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	rule TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	"trigger" TEXT NOT NULL, 
	source TEXT NOT NULL, 
	current BLOB NOT NULL, 
	patient_id TEXT NOT NULL, 
	issuer TEXT DEFAULT '' NOT NULL, 
	start_at BIGINT, 
	due_at BIGINT NOT NULL, 
	turn_at BIGINT NOT NULL, 
	state TEXT NOT NULL, 
	fence INTEGER DEFAULT '0' NOT NULL, 
	lease_until BIGINT, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	sweep_id INTEGER, 
	queries INTEGER DEFAULT '0' NOT NULL, 
	candidates INTEGER DEFAULT '0' NOT NULL, 
	taken INTEGER DEFAULT '0' NOT NULL, 
	complete BOOLEAN DEFAULT '1' NOT NULL, 
	cause TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	noted_at BIGINT NOT NULL, 
	finished_at BIGINT, 
	CONSTRAINT uq_appointments_key UNIQUE (rule, "key")
);
CREATE TABLE arrivals (
	study_instance_uid TEXT NOT NULL, 
	rule TEXT NOT NULL, 
	due_at BIGINT NOT NULL, 
	noted_at BIGINT NOT NULL, 
	news INTEGER DEFAULT '0' NOT NULL, 
	state TEXT NOT NULL, 
	fence INTEGER DEFAULT '0' NOT NULL, 
	lease_until BIGINT, 
	nodes TEXT DEFAULT '[]' NOT NULL, 
	cause TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	finished_at BIGINT, 
	PRIMARY KEY (study_instance_uid, rule)
)
 WITHOUT ROWID

;
CREATE TABLE attempts (
	transfer_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	step TEXT NOT NULL, 
	started_at BIGINT NOT NULL, 
	finished_at BIGINT NOT NULL, 
	happening TEXT NOT NULL, 
	cause TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	status INTEGER, 
	completed INTEGER DEFAULT '0' NOT NULL, 
	failed INTEGER DEFAULT '0' NOT NULL, 
	warning INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (transfer_id, number), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "attempts" VALUES(1,1,'move',1772366400123456,1772366400123456,'lease_lost','lease-lost','The router stopped in the middle; what arrived is looked up first.',NULL,0,0,0);
CREATE TABLE caps (
	node TEXT NOT NULL, 
	matches INTEGER NOT NULL, 
	PRIMARY KEY (node)
)
 WITHOUT ROWID

;
CREATE TABLE commitments (
	transaction_uid TEXT NOT NULL, 
	transfer_id INTEGER NOT NULL, 
	node TEXT NOT NULL, 
	requested_at BIGINT NOT NULL, 
	answered_at BIGINT, 
	answer BLOB, 
	PRIMARY KEY (transaction_uid), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
CREATE TABLE departures (
	study_instance_uid TEXT NOT NULL, 
	last_received_at BIGINT NOT NULL, 
	begun_at BIGINT NOT NULL, 
	left_at BIGINT, 
	instances BLOB NOT NULL, 
	PRIMARY KEY (study_instance_uid)
);
CREATE TABLE forward_turns (
	rule TEXT NOT NULL, 
	node TEXT NOT NULL, 
	turns BIGINT NOT NULL, 
	PRIMARY KEY (rule, node)
)
 WITHOUT ROWID

;
CREATE TABLE instance_lists (
	transfer_id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	instances BLOB NOT NULL, 
	PRIMARY KEY (transfer_id, kind), 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
);
CREATE TABLE leavers (
	study_instance_uid TEXT NOT NULL, 
	received_at BIGINT NOT NULL, 
	look_at BIGINT NOT NULL, 
	PRIMARY KEY (study_instance_uid)
)
 WITHOUT ROWID

;
CREATE TABLE meta (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('schema_version','7');
CREATE TABLE notice_groups (
	channel TEXT NOT NULL, 
	name TEXT NOT NULL, 
	state BLOB NOT NULL, 
	PRIMARY KEY (channel, name)
)
 WITHOUT ROWID

;
CREATE TABLE notifications (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	channel TEXT NOT NULL, 
	content BLOB NOT NULL, 
	made_at BIGINT NOT NULL, 
	next_at BIGINT NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	lease_until BIGINT, 
	result TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	finished_at BIGINT
);
CREATE TABLE patient_merges (
	old_patient_id TEXT NOT NULL, 
	old_issuer TEXT NOT NULL, 
	patient_id TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	merged_at BIGINT NOT NULL, 
	PRIMARY KEY (old_patient_id, old_issuer)
)
 WITHOUT ROWID

;
CREATE TABLE receipts (
	study_instance_uid TEXT NOT NULL, 
	series_instance_uid TEXT NOT NULL, 
	sop_instance_uid TEXT NOT NULL, 
	sop_class_uid TEXT DEFAULT '' NOT NULL, 
	transfer_syntax_uid TEXT DEFAULT '' NOT NULL, 
	calling_ae_title TEXT DEFAULT '' NOT NULL, 
	size BIGINT NOT NULL, 
	path TEXT NOT NULL, 
	received_at BIGINT NOT NULL, 
	checksum BLOB, 
	PRIMARY KEY (study_instance_uid, series_instance_uid, sop_instance_uid)
)
 WITHOUT ROWID

;
INSERT INTO "receipts" VALUES('1.2.826.2','1.2.826.2.1','1.2.826.2.1.1','1.2.840.10008.5.1.4.1.1.2','1.2.840.10008.1.2.1','ARCHIVE',512,'ab/1.dcm',1772366400123456,NULL);
CREATE TABLE routes (
	source TEXT NOT NULL, 
	destination TEXT NOT NULL, 
	cause TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	stopped_at BIGINT NOT NULL, 
	probe_at BIGINT NOT NULL, 
	probes INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (source, destination)
)
 WITHOUT ROWID

;
CREATE TABLE rule_days (
	rule TEXT NOT NULL, 
	day INTEGER NOT NULL, 
	instances BIGINT NOT NULL, 
	PRIMARY KEY (rule, day)
)
 WITHOUT ROWID

;
CREATE TABLE services (
	owner TEXT NOT NULL, 
	address TEXT NOT NULL, 
	seen_at BIGINT NOT NULL, 
	content_hash TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (owner)
);
CREATE TABLE sweep_transfers (
	sweep_id INTEGER NOT NULL, 
	transfer_id INTEGER NOT NULL, 
	PRIMARY KEY (sweep_id, transfer_id), 
	FOREIGN KEY(sweep_id) REFERENCES sweeps (id) ON DELETE CASCADE, 
	FOREIGN KEY(transfer_id) REFERENCES transfers (id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "sweep_transfers" VALUES(1,1);
INSERT INTO "sweep_transfers" VALUES(1,2);
CREATE TABLE sweeps (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	rule TEXT NOT NULL, 
	source TEXT NOT NULL, 
	tier INTEGER NOT NULL, 
	manual BOOLEAN NOT NULL, 
	due_at BIGINT NOT NULL, 
	state TEXT NOT NULL, 
	fence INTEGER DEFAULT '0' NOT NULL, 
	lease_until BIGINT, 
	started_at BIGINT, 
	finished_at BIGINT, 
	matches INTEGER DEFAULT '0' NOT NULL, 
	selected INTEGER DEFAULT '0' NOT NULL, 
	queries INTEGER DEFAULT '0' NOT NULL, 
	cause TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	account TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT uq_sweeps_due UNIQUE (rule, tier, manual, due_at)
);
INSERT INTO "sweeps" VALUES(1,'ct','archive',0,0,1772366400123456,'complete',1,NULL,1772366400123456,1772366400123456,2,2,1,'','','');
CREATE TABLE transfer_counts (
	source TEXT NOT NULL, 
	destination TEXT NOT NULL, 
	state TEXT NOT NULL, 
	count BIGINT NOT NULL, 
	PRIMARY KEY (source, destination, state)
)
 WITHOUT ROWID

;
INSERT INTO "transfer_counts" VALUES('archive','local','moving',0);
INSERT INTO "transfer_counts" VALUES('archive','local','queued',1);
INSERT INTO "transfer_counts" VALUES('archive','local','verifying',1);
CREATE TABLE transfers (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	source TEXT NOT NULL, 
	study_instance_uid TEXT NOT NULL, 
	series_instance_uid TEXT DEFAULT '' NOT NULL, 
	destination TEXT NOT NULL, 
	rule TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	instance_count INTEGER, 
	patient_id TEXT DEFAULT '' NOT NULL, 
	expected INTEGER, 
	completed INTEGER DEFAULT '0' NOT NULL, 
	failed INTEGER DEFAULT '0' NOT NULL, 
	warning INTEGER DEFAULT '0' NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	rounds INTEGER DEFAULT '0' NOT NULL, 
	looks INTEGER DEFAULT '0' NOT NULL, 
	status INTEGER, 
	cause TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	fence INTEGER DEFAULT '0' NOT NULL, 
	steps INTEGER DEFAULT '0' NOT NULL, 
	wish TEXT DEFAULT '' NOT NULL, 
	availability TEXT DEFAULT '' NOT NULL, 
	queued_at BIGINT NOT NULL, 
	started_at BIGINT, 
	next_at BIGINT NOT NULL, 
	claimed_at BIGINT, 
	lease_until BIGINT, 
	finished_at BIGINT, 
	updated_at BIGINT NOT NULL, 
	deadline_at BIGINT, 
	CONSTRAINT uq_transfers_intent UNIQUE (source, study_instance_uid, series_instance_uid, destination), 
	CONSTRAINT ck_transfers_priority CHECK (priority BETWEEN 0 AND 2)
);
INSERT INTO "transfers" VALUES(1,'archive','1.2.826.1','','local','ct',1,'verifying',5,'P1',NULL,0,0,0,1,0,0,NULL,'lease-lost','The router stopped in the middle; what arrived is looked up first.',2,1,'','',1772366400123456,1772366400123456,1772366400123456,1772366400123456,NULL,NULL,1772366400123456,NULL);
INSERT INTO "transfers" VALUES(2,'archive','1.2.826.2','','local','ct',1,'queued',5,'P1',NULL,0,0,0,0,0,0,NULL,'','',0,0,'','',1772366400123456,NULL,1772366400123456,NULL,NULL,NULL,1772366400123456,NULL);
CREATE INDEX ix_sweeps_due ON sweeps (due_at, id) WHERE state = 'due';
CREATE INDEX ix_sweeps_running ON sweeps (lease_until) WHERE state = 'running';
CREATE INDEX ix_sweeps_latest ON sweeps (rule, finished_at, id) WHERE finished_at IS NOT NULL;
CREATE INDEX ix_sweeps_last ON sweeps (manual, rule, tier, finished_at, due_at);
CREATE INDEX ix_transfers_study ON transfers (study_instance_uid);
CREATE INDEX ix_transfers_queue ON transfers (source, priority, next_at, id) WHERE state = 'queued';
CREATE INDEX ix_transfers_routes ON transfers (source, destination, priority, next_at, id) WHERE state = 'queued';
CREATE INDEX ix_transfers_state ON transfers (state, id);
CREATE INDEX ix_transfers_held ON transfers (rule, source, cause, queued_at, id) WHERE state = 'held';
CREATE INDEX ix_transfers_deadlines ON transfers (state, deadline_at) WHERE deadline_at IS NOT NULL AND priority > 0;
CREATE INDEX ix_transfers_verification ON transfers (destination, next_at, id) WHERE state = 'verifying' AND lease_until IS NULL;
CREATE INDEX ix_transfers_leases ON transfers (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX ix_transfers_ended ON transfers (state, finished_at, id) WHERE finished_at IS NOT NULL;
CREATE INDEX ix_transfers_oldest ON transfers (source, destination, queued_at) WHERE state = 'queued';
CREATE INDEX ix_appointments_turn ON appointments (source, turn_at, id, due_at) WHERE state = 'waiting';
CREATE INDEX ix_appointments_sweep ON appointments (sweep_id) WHERE sweep_id IS NOT NULL;
CREATE INDEX ix_appointments_start ON appointments (rule, start_at);
CREATE INDEX ix_appointments_looking ON appointments (lease_until) WHERE state = 'looking';
CREATE INDEX ix_appointments_due ON appointments (source, due_at) WHERE state = 'waiting';
CREATE INDEX ix_appointments_noted ON appointments (noted_at);
CREATE INDEX ix_appointments_patient ON appointments (patient_id);
CREATE INDEX ix_patient_merges_patient ON patient_merges (patient_id);
CREATE INDEX ix_notifications_due ON notifications (next_at, id) WHERE finished_at IS NULL;
CREATE INDEX ix_notifications_made ON notifications (made_at);
CREATE INDEX ix_arrivals_rule ON arrivals (rule, due_at);
CREATE INDEX ix_arrivals_looking ON arrivals (lease_until) WHERE state = 'looking';
CREATE INDEX ix_arrivals_due ON arrivals (due_at) WHERE state = 'waiting';
CREATE INDEX ix_arrivals_done ON arrivals (finished_at) WHERE state = 'done';
CREATE INDEX ix_departures_begun ON departures (begun_at) WHERE left_at IS NULL;
CREATE INDEX ix_sweep_transfers_transfer ON sweep_transfers (transfer_id);
CREATE INDEX ix_attempts_moves ON attempts (finished_at) WHERE step = 'move';
CREATE INDEX ix_commitments_transfer ON commitments (transfer_id, requested_at);
CREATE INDEX ix_commitments_requested ON commitments (requested_at);
CREATE INDEX ix_appointment_priors_study ON appointment_priors (study_instance_uid, appointment_id);
CREATE INDEX ix_appointment_transfers_transfer ON appointment_transfers (transfer_id);
CREATE TRIGGER transfers_came AFTER INSERT ON transfers BEGIN 
INSERT INTO transfer_counts (source, destination, state, count)
VALUES (new.source, new.destination, new.state, 1)
ON CONFLICT (source, destination, state) DO UPDATE SET count = count + 1;
 END;
CREATE TRIGGER transfers_changed AFTER UPDATE OF source, destination, state ON transfers WHEN (old.source, old.destination, old.state) <> (new.source, new.destination, new.state) BEGIN 
UPDATE transfer_counts SET count = count - 1
WHERE source = old.source AND destination = old.destination AND state = old.state;
 
INSERT INTO transfer_counts (source, destination, state, count)
VALUES (new.source, new.destination, new.state, 1)
ON CONFLICT (source, destination, state) DO UPDATE SET count = count + 1;
 END;
CREATE TRIGGER transfers_went AFTER DELETE ON transfers BEGIN 
UPDATE transfer_counts SET count = count - 1
WHERE source = old.source AND destination = old.destination AND state = old.state;
 END;
CREATE INDEX ix_leavers_oldest ON leavers (received_at, look_at);
CREATE INDEX ix_leavers_look ON leavers (look_at);
CREATE TRIGGER forwards_proven AFTER UPDATE OF state ON transfers WHEN new.source = 'local' AND new.state = 'complete' AND old.state <> new.state BEGIN 
INSERT INTO leavers (study_instance_uid, received_at, look_at)
SELECT new.study_instance_uid, coalesce(max(received_at), new.updated_at), new.updated_at
FROM receipts WHERE study_instance_uid = new.study_instance_uid
ON CONFLICT (study_instance_uid) DO UPDATE SET received_at = excluded.received_at, look_at = excluded.look_at;
 END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('sweeps',1);
INSERT INTO "sqlite_sequence" VALUES('transfers',2);
COMMIT;
